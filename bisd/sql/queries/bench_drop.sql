-- Bench: the statement that drops the database $1, whoever is still in it.
select format('drop database if exists %I with (force)', $1::text)
