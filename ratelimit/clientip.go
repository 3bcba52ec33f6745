package ratelimit

import (
	"net/http"
	"net/netip"
)

// maxHops bounds how many addresses of a header are looked at.
const maxHops = 32

// noAddress is the key of requests whose peer has no IP address, a unix socket with no trusted loopback for example.
const noAddress = "unknown"

// ClientIP returns a key function for [Middleware]: the client's address, an IPv6 one cut to its /64, since that is what one
// customer gets.
//
// trusted are the proxies whose word counts. Without any, the key is the peer's address and headers are ignored. With some, a
// request that comes from one of them is traced back through X-Forwarded-For, or Forwarded (RFC 7239) where there is none, from
// the right: each entry counts only because the hop after it is trusted, and the first that is not trusted is the client. What
// stands left of it can be invented by the client and is not read. An entry that is not an address ends the trace at the hop
// before it. A request on a unix socket comes from this machine and counts as 127.0.0.1.
//
// Your proxy sets one of the two headers and passes the other on as the client sent it. So where both are present and name
// different clients neither is believed: the key is the address of the last proxy, shared by such requests only in as far as
// they came through it. Have the proxy delete the header it does not set.
func ClientIP(trusted ...netip.Prefix) func(*http.Request) string {
	proxies := make([]netip.Prefix, 0, len(trusted))
	for _, p := range trusted {
		if a := p.Addr(); a.Is4In6() && p.Bits() >= 96 {
			p = netip.PrefixFrom(a.Unmap(), p.Bits()-96)
		}
		proxies = append(proxies, p.Masked())
	}
	trusts := func(a netip.Addr) bool {
		for _, p := range proxies {
			if p.Contains(a) {
				return true
			}
		}
		return false
	}
	return func(r *http.Request) string {
		peer, ok := peerAddr(r.RemoteAddr)
		if !ok {
			if len(proxies) == 0 || r.RemoteAddr != "" && r.RemoteAddr[0] != '@' && r.RemoteAddr[0] != '/' {
				return noAddress
			}
			peer = netip.AddrFrom4([4]byte{127, 0, 0, 1})
		}
		if !trusts(peer) {
			return addrKey(peer)
		}
		forwardedFor, forwarded := r.Header["X-Forwarded-For"], r.Header["Forwarded"]
		switch {
		case len(forwardedFor) == 0:
			return addrKey(trace(peer, forwarded, forwardedEntry, trusts))
		case len(forwarded) == 0:
			return addrKey(trace(peer, forwardedFor, listEntry, trusts))
		}
		a, b := trace(peer, forwardedFor, listEntry, trusts), trace(peer, forwarded, forwardedEntry, trusts)
		if addrKey(a) != addrKey(b) {
			return addrKey(peer)
		}
		return addrKey(a)
	}
}

// trace walks lines from the last entry of the last line while the hop after it is trusted.
func trace(hop netip.Addr, lines []string, last func(string) (entry, rest string), trusts func(netip.Addr) bool) netip.Addr {
	hops := 0
	for i := len(lines) - 1; i >= 0; i-- {
		for rest := lines[i]; rest != ""; {
			var entry string
			entry, rest = last(rest)
			a, ok := entryAddr(entry)
			if hops++; !ok || hops > maxHops {
				return hop
			}
			if hop = a; !trusts(hop) {
				return hop
			}
		}
	}
	return hop
}

func peerAddr(remote string) (netip.Addr, bool) {
	if ap, err := netip.ParseAddrPort(remote); err == nil {
		return ap.Addr().Unmap().WithZone(""), true
	}
	a, err := netip.ParseAddr(remote)
	return a.Unmap().WithZone(""), err == nil
}

// entryAddr reads what proxies write for an address: 192.0.2.1, 192.0.2.1:80, 2001:db8::1, [2001:db8::1], [2001:db8::1]:80.
func entryAddr(s string) (netip.Addr, bool) {
	if len(s) > 2 && s[0] == '[' && s[len(s)-1] == ']' {
		s = s[1 : len(s)-1]
		if a, err := netip.ParseAddr(s); err != nil || !a.Is6() {
			return netip.Addr{}, false
		}
	}
	return peerAddr(s)
}

// addrKey is the form of an address that limits count by.
func addrKey(a netip.Addr) string {
	if a.Is6() {
		p, _ := a.Prefix(64)
		return p.String()
	}
	return a.String()
}
