-- $1 webhook id.
select bisd.enable_webhook($1)
