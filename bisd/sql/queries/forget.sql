-- Forgets what is kept as long as attempts, $1, and in no partition: webhooks that were removed before, and faults of
-- attachments.
select bisd.forget_webhooks(now() - $1::interval), bisd.forget_faults(now() - $1::interval)
