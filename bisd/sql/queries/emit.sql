-- $1 account id, $2 topic, $3 body as text.
select bisd.emit($1, $2, $3::text::json)
