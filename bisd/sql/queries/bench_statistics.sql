-- Bench: statements of this database can be asked for.
create extension if not exists pg_stat_statements
