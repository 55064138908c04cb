-- $1 webhook id.
select bisd.disable_webhook($1)
