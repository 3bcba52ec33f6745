// Storefront is a small shop that uses every part of Fairlead the way a service would: two worker processes, PostgreSQL with
// replicas, Redis. Start it with its own servers by "make demo", or by itself with DATABASE_URL and REDIS_URL set;
// "storefront load" first fills an empty database. See README.md for its routes and variables.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"strconv"

	"github.com/fairlead/fairlead/cluster"
	"github.com/fairlead/fairlead/examples/storefront/catalog"
	"github.com/fairlead/fairlead/examples/storefront/settings"
)

func main() {
	if len(os.Args) > 1 && os.Args[1] == "load" {
		exit(load(os.Args[2:]))
	}
	c, err := settings.Parse(os.Args[1:], os.Getenv, os.Stderr)
	switch {
	case errors.Is(err, flag.ErrHelp):
		os.Exit(0)
	case err != nil:
		fmt.Fprintf(os.Stderr, "storefront: the configuration is wrong:\n%v\n", err)
		os.Exit(2)
	}
	if err := c.MakeControlDir(); err != nil {
		exit(err)
	}
	err = cluster.Run(context.Background(), app{c}.run, c.Cluster())
	c.RemoveControlDir()
	exit(err)
}

func exit(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

// load fills the database at DATABASE_URL.
func load(args []string) error {
	n := 100_000
	if len(args) > 0 {
		var err error
		if n, err = strconv.Atoi(args[0]); err != nil || n < 1 || len(args) > 1 {
			return errors.New("usage: storefront load [number of products]")
		}
	}
	return catalog.Load(context.Background(), os.Getenv("DATABASE_URL"), n, catalog.ProgressLine(os.Stderr, n))
}
