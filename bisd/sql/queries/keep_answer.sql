-- Keeps the answer to an order: $1 its name, $2 the hash of what it was, $3 the answer, sealed.
insert into bisd.answered (name, request, sealed) values ($1, $2, $3)
