-- $1 account id, $2 topic, $3 URL.
select bisd.create_webhook($1, $2, $3)
