package telemetry

// Describe says in a few words what the samples of that name are; "" for a name that is not Fairlead's.
func Describe(name string) string { return descriptions[name] }

// descriptions are the help texts of every name that Fairlead reports.
var descriptions = map[string]string{
	"http.server.request.duration": "Time to answer a request, by route and class of the answer.",
	"http.server.active_requests":  "Requests being served.",
}
