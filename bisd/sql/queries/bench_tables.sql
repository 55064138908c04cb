-- Bench: what bisd's triggers are compared with: the same table without triggers.
create schema bench;
create table bench.bare (like bisd.notification including all)
