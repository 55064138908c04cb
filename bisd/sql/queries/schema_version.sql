-- The number of the last migration that was applied.
select coalesce(max(number), 0) from bisd.migration
