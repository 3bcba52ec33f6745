// Package retry tries again what failed, and no more often than the target can bear.
//
// A [Budget] belongs to one target and holds how its calls are retried. [Do] retries any function, [Transport] an HTTP
// client's requests.
//
//   - Waits grow exponentially with full jitter: a random time between 0 and BaseDelay * 2^n, at most MaxDelay (Marc
//     Brooker, "Exponential Backoff and Jitter", AWS Architecture Blog, 2015). Retry-After, in seconds or as a date, is
//     honoured: never earlier, and spread by the same jitter.
//   - Retries are paid for from the budget: a bucket that starts with Burst (10) tokens, its most, and gets Ratio (0.1) of
//     one with each request; a retry costs one. So attempts are at most 1.1 * requests + 10, however long an outage lasts.
//     No time is involved: the bound holds for any rate.
//   - There is no waiting past the context's deadline: the last result is returned at once, for as long as it is of use.
//   - Only what is safe to repeat is repeated: for Do, that is for the caller to know; Transport goes by the request.
//
// What is not retried: an error marked by [Permanent]; one whose chain has a method
//
//	Retryable() bool
//
// that returns false, as that of an open breaker has (github.com/fairlead/fairlead/scale/breaker), since what was refused
// in this process would be refused again; and whatever Options.IsRetryable rejects. When there is no more to try, the last
// error or response is returned as it is.
//
// A budget is local to its process. Retries belong in one layer only: three layers of three attempts are 27. Go's
// http.Transport itself repeats a safe request once more if a kept-alive connection turns out dead before anything came
// back; that is not counted here.
package retry
