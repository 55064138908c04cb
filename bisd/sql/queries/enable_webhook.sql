-- Switches webhook $1 on; what was held for it is to $2: resume or discard.
select bisd.enable_webhook($1, $2)
