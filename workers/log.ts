import type { LogLevel, LogMetadata, Logger as TemporalLogger } from '@temporalio/worker';
import { pino, type Logger } from 'pino';
import { scrub } from '../activities/scrub.ts';
import { BackupError, messageOf } from '../core/errors.ts';

export type Log = Logger;

/** JSON lines on standard error; what looks like a secret is taken out of every text. */
export function createLog(bindings: Record<string, unknown>, level: string = 'info'): Log {
  return pino(
    {
      level,
      base: { pid: process.pid, ...bindings },
      timestamp: pino.stdTimeFunctions.isoTime,
      formatters: { level: (label) => ({ level: label }) },
      serializers: { error: describeError },
      hooks: { streamWrite: scrub },
    },
    // Synchronous: the last line before a crash is the one that is needed.
    pino.destination({ fd: 2, sync: true }),
  );
}

/** An error for the log: code and advice of a foreseen one, the stack of any other, causes by their messages. */
export function describeError(error: unknown): Record<string, unknown> {
  if (!(error instanceof Error)) return { message: String(error) };
  const cause = error.cause === undefined ? {} : { cause: messageOf(error.cause) };
  if (error instanceof BackupError)
    return { code: error.code, message: error.message, hint: error.hint, ...cause };
  return { name: error.name, message: error.message, stack: error.stack, ...cause };
}

/** Lets the same message through once in `everyMs`, with the number of those that were held back. */
export function rateLimited(
  write: (message: string, suppressed: number) => void,
  everyMs: number,
  clock = Date.now,
) {
  const seen = new Map<string, { until: number; suppressed: number }>();
  return (message: string): void => {
    const now = clock();
    const known = seen.get(message);
    if (known && now < known.until) {
      known.suppressed += 1;
      return;
    }
    if (seen.size > 500) seen.clear();
    seen.set(message, { until: now + everyMs, suppressed: 0 });
    write(message, known?.suppressed ?? 0);
  };
}

/** Temporal's own messages: an outage would give dozens a minute for every poller. */
export function temporalLogger(log: Log): TemporalLogger {
  const limited = new Map<string, (message: string) => void>();
  const write = (level: LogLevel, message: string, metadata?: LogMetadata) => {
    const name = levelOf(level, message);
    let limit = limited.get(name);
    if (!limit) {
      const out = log.child({ from: 'temporal' });
      limit = rateLimited(
        (text, suppressed) => out[name]({ ...(suppressed > 0 && { suppressed }) }, text),
        60_000,
      );
      limited.set(name, limit);
    }
    const error: unknown = metadata?.['error'];
    limit(error === undefined ? message : `${message}: ${messageOf(error)}`);
  };
  return {
    log: write,
    trace: (message, metadata) => write('TRACE', message, metadata),
    debug: (message, metadata) => write('DEBUG', message, metadata),
    info: (message, metadata) => write('INFO', message, metadata),
    warn: (message, metadata) => write('WARN', message, metadata),
    error: (message, metadata) => write('ERROR', message, metadata),
  };
}

/** Each queue has a worker for what it is for, and none for the rest: the SDK warns of that at every start. */
const BY_DESIGN = /^No (activities|workflows) registered, not polling/;

/** What is news to Temporal is detail here. */
function levelOf(level: LogLevel, message: string): 'debug' | 'warn' | 'error' {
  if (BY_DESIGN.test(message)) return 'debug';
  if (level === 'ERROR') return 'error';
  return level === 'WARN' ? 'warn' : 'debug';
}
