-- Whether this database has bisd's schema.
select to_regclass('bisd.migration') is not null
