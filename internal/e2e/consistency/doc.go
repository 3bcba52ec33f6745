// Package consistency checks, with several processes, that nobody reads behind what they have written or read: pairs of a
// write in one process and a read in another, the same through the cache, and histories under faults that a ledger judges.
package consistency
