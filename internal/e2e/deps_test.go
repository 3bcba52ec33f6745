package e2e

import (
	_ "github.com/chromedp/chromedp"
	_ "github.com/coder/websocket"
	_ "github.com/dunglas/httpsfv"
	_ "github.com/fairlead/fairlead/cache/rediscache"
	_ "github.com/fairlead/fairlead/cluster"
	_ "github.com/fairlead/fairlead/pool"
	_ "github.com/fairlead/fairlead/ratelimit/redislimit"
	_ "github.com/fairlead/fairlead/scale"
	_ "github.com/georgysavva/scany/v2/pgxscan"
	_ "github.com/prometheus/client_golang/prometheus/testutil/promlint"
	_ "go.opentelemetry.io/otel/sdk/metric"
	_ "go.opentelemetry.io/otel/sdk/metric/metricdata"
	_ "go.opentelemetry.io/otel/sdk/trace"
	_ "go.opentelemetry.io/otel/sdk/trace/tracetest"
	_ "golang.org/x/net/http2"
)
