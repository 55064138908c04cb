-- $1 table as SQL names it, $2 topic or null.
select bisd.detach($1::text::regclass, $2)
