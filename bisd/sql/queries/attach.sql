-- $1 table as SQL names it, $2 topic, $3 insert or update, $4 account, $5 columns or null, $6 body or null, $7 condition or
-- null, $8 whether strict.
select bisd.attach($1::text::regclass, $2, $3, $4, $5, $6, $7, $8)
