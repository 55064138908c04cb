-- Changes settings of webhook $1: a JSON object, as text.
select bisd.set_webhook($1, $2::text::jsonb)
