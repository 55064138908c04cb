-- Bench: statements are counted from the next start on.
alter system set shared_preload_libraries = 'pg_stat_statements'
