create table products (
	id          bigint primary key,
	category    text    not null,
	name        text    not null,
	description text    not null,
	price_cents integer not null check (price_cents >= 0),
	stock       integer not null check (stock >= 0)
);

create table orders (
	id              bigint generated always as identity primary key,
	customer        text        not null,
	idempotency_key text        not null,
	total_cents     bigint      not null,
	created_at      timestamptz not null default now(),
	unique (customer, idempotency_key) -- what makes an order happen once, however often it is sent
);

create index orders_newest on orders (customer, id desc);

create table order_items (
	order_id    bigint  not null references orders,
	product_id  bigint  not null references products,
	qty         integer not null check (qty > 0),
	price_cents integer not null,
	primary key (order_id, product_id)
);
