-- Replication slots that nobody reads, with the octets of WAL that are kept for them; and whether they keep dead rows as well.
select s.slot_name::text as name, s.slot_type as kind, s.xmin is not null as rows,
       coalesce(pg_wal_lsn_diff(pg_current_wal_lsn(), s.restart_lsn), 0)::bigint as octets
from pg_catalog.pg_replication_slots s
where not s.active
order by 4 desc
