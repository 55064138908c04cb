-- Rings a bell of our own, $1, for whoever listens on it; says what time it is.
select clock_timestamp() as now, pg_notify($1, '')
