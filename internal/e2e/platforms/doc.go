// Package platforms checks that everything compiles on systems other than the one at hand: it type-checks all modules
// from source, which takes seconds where building takes minutes. `make cross` builds.
package platforms
