// Package headers reads the fields that the library's responses carry with parsers of other people's.
package headers
