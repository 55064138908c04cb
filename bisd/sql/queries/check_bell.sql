-- Rings a bell of our own, $1, for whoever listens on it.
select pg_notify($1, '')
