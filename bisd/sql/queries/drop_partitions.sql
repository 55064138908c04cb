-- Drops what retention ($1 event or attempt, $2 the age) has passed; answers the names.
select bisd.drop_partitions($1, now() - $2::interval)
