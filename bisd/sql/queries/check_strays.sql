-- How many rows the default partitions have, counted up to $1.
select (select count(*) from (select from bisd.event_default limit $1) counted) as event_default,
       (select count(*) from (select from bisd.attempt_default limit $1) counted) as attempt_default
