-- As the shop does it: account $1, customer $2, product $3.
insert into bisd.notification (account_id, customer_email, customer_language, customer_utc_offset, product_id, product_title,
                               variant_id, variant_title)
values ($1, $2, 'en-GB', 14400, 8339067207909, $3, 44211925318693, 'Small')
returning id
