// Package sqlcgen is code that sqlc generated, as an application would have it.
package sqlcgen
