-- Settings of this server that do harm, as an application's session has them: one row each.
select s.name, s.setting
from pg_catalog.pg_settings s
join (values
    ('fsync', 'off'), ('full_page_writes', 'off'), ('synchronous_commit', 'off'), ('autovacuum', 'off'), ('track_counts', 'off'),
    ('track_activities', 'off'), ('log_statement', 'all'), ('log_statement', 'mod'), ('log_min_duration_statement', '0')
) as harmful (name, setting) using (name, setting)
order by s.name
