-- Bench: $1 notifications, in turn of the accounts from $2 to $3.
insert into bisd.notification (account_id, customer_email, customer_language, customer_utc_offset, product_id, product_title,
                               variant_id, variant_title)
select $2::bigint + number % ($3::bigint - $2::bigint + 1), 'someone@example.com', 'en-GB', 14400, 8339067207909, 'Black Tea',
       44211925318693, 'Small'
from generate_series(0, $1::bigint - 1) number
