-- What the first migration stands on.
create schema if not exists bisd;
create table bisd.migration (
    number integer primary key,
    name text not null,
    applied_at timestamptz not null default now()
)
