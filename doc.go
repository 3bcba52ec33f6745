// Package fairlead is the overview of a toolkit whose parts live in the packages beside it.
package fairlead
