// Package redislimit keeps the limits of package ratelimit in Redis, so that any number of processes hold one limit together.
package redislimit
