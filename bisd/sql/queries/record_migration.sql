-- $1 number, $2 name.
insert into bisd.migration (number, name) values ($1, $2)
