-- Partitions for today and the days ahead ($1: how many); answers how many are new.
select bisd.make_partitions($1)
