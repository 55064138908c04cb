-- Removes webhook $1; what it is owed is cancelled.
select bisd.remove_webhook($1)
