package ratelimit

import (
	"net/http"
	"net/netip"
	"strings"
	"testing"
)

func request(peer string, headers ...string) *http.Request {
	r := &http.Request{RemoteAddr: peer, Header: http.Header{}}
	for _, h := range headers {
		name, value, _ := strings.Cut(h, ": ")
		r.Header.Add(name, value)
	}
	return r
}

func prefixes(list ...string) (out []netip.Prefix) {
	for _, s := range list {
		out = append(out, netip.MustParsePrefix(s))
	}
	return out
}

func TestClientIP(t *testing.T) {
	proxies := prefixes("10.0.0.0/8", "2001:db8:ff::/48", "127.0.0.0/8", "::ffff:172.16.0.0/108")
	for _, c := range []struct {
		name    string
		trusted []netip.Prefix
		request *http.Request
		want    string
	}{
		{"the peer", nil, request("203.0.113.7:4711"), "203.0.113.7"},
		{"an IPv6 peer by its /64", nil, request("[2001:db8:1:2:3:4:5:6]:4711"), "2001:db8:1:2::/64"},
		{"a neighbour in the /64", nil, request("[2001:db8:1:2::1]:1"), "2001:db8:1:2::/64"},
		{"an IPv4 address in IPv6", nil, request("[::ffff:203.0.113.7]:4711"), "203.0.113.7"},
		{"a zone", nil, request("[fe80::1%eth0]:1"), "fe80::/64"},
		{"no address", nil, request("nonsense"), "unknown"},
		{"nothing", nil, request(""), "unknown"},
		{"a unix socket", nil, request("@"), "unknown"},

		{"headers without declared proxies", nil, request("203.0.113.7:1", "X-Forwarded-For: 198.51.100.1", "Forwarded: for=198.51.100.1"), "203.0.113.7"},
		{"headers from a stranger", proxies, request("203.0.113.7:1", "X-Forwarded-For: 198.51.100.1"), "203.0.113.7"},
		{"a proxy without headers", proxies, request("10.1.1.1:1"), "10.1.1.1"},
		{"a proxy's word", proxies, request("10.1.1.1:1", "X-Forwarded-For: 198.51.100.1"), "198.51.100.1"},
		{"a proxy's word, IPv6", proxies, request("10.1.1.1:1", "X-Forwarded-For: 2001:db8:9:8:7::6"), "2001:db8:9:8::/64"},
		{"an IPv6 proxy", proxies, request("[2001:db8:ff::1]:1", "X-Forwarded-For: 198.51.100.1"), "198.51.100.1"},
		{"a proxy given as a mapped prefix", proxies, request("172.17.0.1:1", "X-Forwarded-For: 198.51.100.1"), "198.51.100.1"},
		{"a mapped peer", proxies, request("[::ffff:10.1.1.1]:1", "X-Forwarded-For: 198.51.100.1"), "198.51.100.1"},
		{"a unix socket behind loopback", proxies, request("@", "X-Forwarded-For: 198.51.100.1"), "198.51.100.1"},
		{"a unix socket, loopback not trusted", prefixes("10.0.0.0/8"), request("@", "X-Forwarded-For: 198.51.100.1"), "127.0.0.1"},

		{"the client invents what is left of it", proxies, request("10.1.1.1:1", "X-Forwarded-For: 1.2.3.4, 198.51.100.1"), "198.51.100.1"},
		{"the client invents a trusted address", proxies, request("10.1.1.1:1", "X-Forwarded-For: 10.9.9.9, 198.51.100.1"), "198.51.100.1"},
		{"two proxies", proxies, request("10.1.1.1:1", "X-Forwarded-For: 1.2.3.4, 198.51.100.1, 10.2.2.2"), "198.51.100.1"},
		{"several lines are one list", proxies, request("10.1.1.1:1", "X-Forwarded-For: 1.2.3.4", "X-Forwarded-For: 198.51.100.1", "X-Forwarded-For: 10.2.2.2"), "198.51.100.1"},
		{"only proxies", proxies, request("10.1.1.1:1", "X-Forwarded-For: 10.3.3.3, 10.2.2.2"), "10.3.3.3"},
		{"with a port", proxies, request("10.1.1.1:1", "X-Forwarded-For: 198.51.100.1:5555"), "198.51.100.1"},
		{"IPv6 with a port", proxies, request("10.1.1.1:1", "X-Forwarded-For: [2001:db8:9:8::6]:5555"), "2001:db8:9:8::/64"},
		{"IPv6 in brackets", proxies, request("10.1.1.1:1", "X-Forwarded-For: [2001:db8:9:8::6]"), "2001:db8:9:8::/64"},
		{"odd blanks", proxies, request("10.1.1.1:1", "X-Forwarded-For: \t1.2.3.4 ,\t 198.51.100.1 \t"), "198.51.100.1"},
		{"garbage ends the trace", proxies, request("10.1.1.1:1", "X-Forwarded-For: 198.51.100.1, garbage, 10.2.2.2"), "10.2.2.2"},
		{"an empty entry ends the trace", proxies, request("10.1.1.1:1", "X-Forwarded-For: 198.51.100.1,,10.2.2.2"), "10.2.2.2"},
		{"an empty header", proxies, request("10.1.1.1:1", "X-Forwarded-For: "), "10.1.1.1"},
		{"IPv4 in brackets is garbage", proxies, request("10.1.1.1:1", "X-Forwarded-For: [198.51.100.1]"), "10.1.1.1"},
		{"a long list is not read to its end", proxies, request("10.1.1.1:1", "X-Forwarded-For: 198.51.100.1, "+strings.Repeat("10.2.2.2, ", 100)+"10.3.3.3"), "10.2.2.2"},

		{"Forwarded", proxies, request("10.1.1.1:1", "Forwarded: for=1.2.3.4, for=198.51.100.1;proto=https;by=10.1.1.1"), "198.51.100.1"},
		{"Forwarded, IPv6", proxies, request("10.1.1.1:1", `Forwarded: proto=http; FOR="[2001:db8:9:8::6]:4711"`), "2001:db8:9:8::/64"},
		{"Forwarded through two", proxies, request("10.1.1.1:1", `Forwarded: for=198.51.100.1, for="10.2.2.2:80"`), "198.51.100.1"},
		{"an unbalanced quote swallows nothing", proxies, request("10.1.1.1:1", `Forwarded: for="1.2.3.4, for=198.51.100.1`), "198.51.100.1"},
		{"a quoted comma", proxies, request("10.1.1.1:1", `Forwarded: for=1.2.3.4;host="a, b", for=198.51.100.1;host="x;for=9.9.9.9, y"`), "198.51.100.1"},
		{"an escaped quote", proxies, request("10.1.1.1:1", `Forwarded: for=1.2.3.4, for=198.51.100.1;host="x\", for=9.9.9.9"`), "198.51.100.1"},
		{"for twice", proxies, request("10.1.1.1:1", "Forwarded: for=198.51.100.1;for=9.9.9.9"), "10.1.1.1"},
		{"an obfuscated node", proxies, request("10.1.1.1:1", "Forwarded: for=198.51.100.1, for=_hidden"), "10.1.1.1"},
		{"unknown", proxies, request("10.1.1.1:1", "Forwarded: for=unknown"), "10.1.1.1"},
		{"no for", proxies, request("10.1.1.1:1", "Forwarded: by=10.1.1.1;proto=https"), "10.1.1.1"},

		{"both agree", proxies, request("10.1.1.1:1", "X-Forwarded-For: 198.51.100.1", "Forwarded: for=198.51.100.1"), "198.51.100.1"},
		{"a forged Forwarded beside the proxy's X-Forwarded-For", proxies, request("10.1.1.1:1", "X-Forwarded-For: 198.51.100.1", "Forwarded: for=1.2.3.4"), "10.1.1.1"},
	} {
		if got := ClientIP(c.trusted...)(c.request); got != c.want {
			t.Errorf("%s: got %q, want %q", c.name, got, c.want)
		}
	}
}

// Whatever a client sends, what the trusted proxy appends decides.
func FuzzClientCannotChooseItsKey(f *testing.F) {
	for _, junk := range []string{"", "1.2.3.4", "10.0.0.1", `"`, `for="`, `for=1.2.3.4;host="a\`, `\`, `\\"`, ",", ";", `for="[::1", "`, "\x00", strings.Repeat(`"`, 99)} {
		f.Add(junk, junk)
	}
	key := ClientIP(prefixes("10.0.0.0/8")...)
	f.Fuzz(func(t *testing.T, a, b string) {
		for _, c := range []struct{ header, appended string }{
			{"X-Forwarded-For", "198.51.100.1"},
			{"X-Forwarded-For", "198.51.100.1, 10.2.2.2"},
			{"Forwarded", "for=198.51.100.1"},
			{"Forwarded", `for="198.51.100.1:80";host="x, y";proto=https, for=10.2.2.2`},
		} {
			for _, values := range [][]string{{a + ", " + c.appended}, {a, b + "," + c.appended}, {a, b, c.appended}} {
				r := &http.Request{RemoteAddr: "10.1.1.1:1", Header: http.Header{c.header: values}}
				if got := key(r); got != "198.51.100.1" {
					t.Fatalf("%s: %q: got %q", c.header, values, got)
				}
			}
		}
		// Without a proxy's word anything but a panic or an endless walk will do, and the key is bounded.
		for _, header := range []string{"X-Forwarded-For", "Forwarded"} {
			if got := key(&http.Request{RemoteAddr: "10.1.1.1:1", Header: http.Header{header: {a, b}}}); got == "" || len(got) > 45 {
				t.Fatalf("%q, %q: got %q", a, b, got)
			}
		}
	})
}
