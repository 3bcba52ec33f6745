// Package footprint checks what an application gets when it adds one part of the library: that part, and no driver or
// framework it did not ask for.
package footprint
