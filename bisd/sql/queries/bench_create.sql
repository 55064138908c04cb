-- Bench: the statement that creates the database $1.
select format('create database %I encoding ''UTF8'' template template0', $1::text)
