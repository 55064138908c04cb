-- Until this transaction ends: names are written in full, and times as in UTC.
select set_config('search_path', 'pg_catalog', true), set_config('timezone', 'UTC', true), set_config('datestyle', 'ISO, YMD', true)
