-- The customer has been told of notification $1.
update bisd.notification set sent_at = now() where id = $1
