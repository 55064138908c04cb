-- Bench: the statements that make partitions of attempts for the $1 days before today.
select format('create table bisd.attempt_%s partition of bisd.attempt for values from (%L) to (%L)',
              to_char(day, 'YYYYMMDD'), day::timestamp at time zone 'UTC', (day + 1)::timestamp at time zone 'UTC')
from (select (now() at time zone 'UTC')::date - number as day from generate_series(1, $1::integer) number) days
