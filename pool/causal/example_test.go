package causal_test

import (
	"context"
	"fmt"

	"github.com/fairlead/fairlead/pool/causal"
)

// A job reads what the request that queued it has written, on whichever machine and replica it runs.
func ExampleToken() {
	ctx, scope := causal.Begin(context.Background()) // the middleware does this for each request
	scope.Domain("orders-db").Wrote("00000001:00000000000000A0")

	token, err := causal.Token(ctx)
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(token)

	job, err := causal.AtLeast(context.Background(), token)
	if err != nil {
		fmt.Println(err)
		return
	}
	position, settled := causal.From(job).Domain("orders-db").Bound()
	fmt.Println(position, settled)
	// Output:
	// orders-db=00000001:00000000000000A0
	// 00000001:00000000000000A0 true
}

// A store of your own takes part by asking for the bound before a read and raising the scope after it.
func ExampleScope_Domain() {
	_, scope := causal.Begin(context.Background())
	search := scope.Domain("search-index")

	resolve := search.Pending() // a document was sent; its version is not known yet
	_, settled := search.Bound()
	fmt.Println("settled:", settled)

	resolve("0000000042")
	version, settled := search.Bound()
	fmt.Println("read at or past", version, "settled:", settled)
	// Output:
	// settled: false
	// read at or past 0000000042 settled: true
}
