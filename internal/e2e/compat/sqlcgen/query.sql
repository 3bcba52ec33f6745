-- name: CreateAuthor :one
insert into authors (name, bio) values ($1, $2) returning *;

-- name: GetAuthor :one
select * from authors where id = $1;

-- name: ListAuthors :many
select * from authors order by name;

-- name: RenameAuthor :exec
update authors set name = $2 where id = $1;

-- name: DeleteBooksOf :execrows
delete from books where author_id = $1;

-- name: TagBooks :execresult
update books set tags = tags || sqlc.arg(tag)::text where author_id = sqlc.arg(author_id);

-- name: AddBooks :copyfrom
insert into books (author_id, title, pages) values ($1, $2, $3);

-- name: BooksOf :many
select books.title, books.pages, authors.name as author from books join authors on authors.id = books.author_id
where authors.id = $1 order by books.title;

-- name: CountBooks :batchone
select count(*) from books where author_id = $1;

-- name: RenameBooks :batchexec
update books set title = $2 where author_id = $1;

-- name: TitlesOf :batchmany
select title from books where author_id = $1 order by title;
