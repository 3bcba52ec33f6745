// Tests that need more than the library may import, or look at it from outside: end to end, as an application's
// dependency, on other operating systems.
module github.com/fairlead/fairlead/internal/e2e

go 1.26.0

require golang.org/x/tools v0.52.0

require (
	golang.org/x/mod v0.42.0 // indirect
	golang.org/x/sync v0.25.0 // indirect
)

replace github.com/fairlead/fairlead => ../..
