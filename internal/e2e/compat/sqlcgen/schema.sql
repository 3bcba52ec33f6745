create table authors (
	id bigint generated always as identity primary key,
	name text not null,
	bio text
);
create table books (
	id bigint generated always as identity primary key,
	author_id bigint not null references authors (id),
	title text not null,
	pages integer not null,
	tags text[] not null default '{}',
	published timestamptz not null default now()
);
