import type pg from 'pg';
import { messageOf } from '../core/errors.ts';
import type { VerificationCheck } from '../core/verification.ts';
import { withSession, type Reader, type Sessions } from './verification-sessions.ts';

/** A question that people wrote, and the answer that shows that the data is right. */
export interface ExpectedQuery {
  readonly database: string;
  /** One query: SELECT, VALUES, TABLE or WITH. */
  readonly sql: string;
  /** As `psql -At` prints it: columns divided by `|`, rows by line breaks. */
  readonly expect: string;
}

/** A check, and why it could not be made, when that is not for the data to answer. */
export interface QueryOutcome {
  readonly check: VerificationCheck;
  readonly notTried?: string;
}

const MAX_ROWS = 1000;
const SHOWN = 200;

/** What says that the data is not there, or can't be read; all other failures are of the question or of this host. */
const OF_THE_DATA = /^(?:XX|3D000|3F000|42P01|42703|42704|42883|58030)/;

/** Asks one question of the copy: read-only, and as a role that can do nothing else. */
export async function askQuery(
  sessions: Sessions,
  reader: Reader,
  query: ExpectedQuery,
): Promise<QueryOutcome> {
  const began = performance.now();
  const name = `query: ${shorten(`${query.database}: ${query.sql}`)}`;
  const seconds = () => Math.round(performance.now() - began) / 1000;
  try {
    const answer = await withSession(
      sessions,
      {
        user: reader.user,
        isSuperuser: false,
        database: query.database,
        isReadOnly: true,
        usesDatabasePath: true,
      },
      (client) => answerOf(client, query.sql),
    );
    const isRight = answer.trim() === query.expect.trim();
    return {
      check: {
        name,
        result: isRight ? 'passed' : 'failed',
        ...(isRight ? {} : { object: query.database }),
        detail: isRight
          ? `the answer is ${JSON.stringify(shorten(answer))}`
          : `expected ${JSON.stringify(shorten(query.expect))}, the answer is ${JSON.stringify(shorten(answer))}`,
        seconds: seconds(),
      },
    };
  } catch (error) {
    sessions.signal.throwIfAborted();
    const said = shorten(messageOf(error).replaceAll(/\s+/g, ' '));
    if (OF_THE_DATA.test(sqlState(error))) {
      return { check: { name, result: 'failed', object: query.database, detail: said, seconds: seconds() } };
    }
    const check = { name, result: 'skipped', detail: said, seconds: seconds() } as const;
    return { check, notTried: `${name} could not be answered: ${said}` };
  }
}

/** Through a cursor: that takes one query and nothing else, and of a large answer only the beginning. */
async function answerOf(client: pg.Client, sql: string): Promise<string> {
  await client.query('begin read only');
  const text = sql.trim().replace(/;\s*$/, '');
  // A name makes it a statement of the extended protocol, where several at once are refused.
  await client.query({
    name: 'walkeep_answer',
    text: `declare walkeep_answer no scroll cursor for ${text}\n`,
  });
  const { rows } = await client.query<(string | null)[]>({
    text: `fetch ${MAX_ROWS} from walkeep_answer`,
    rowMode: 'array',
  });
  await client.query('rollback');
  return rows.map((row) => row.map((value) => value ?? '').join('|')).join('\n');
}

function sqlState(error: unknown): string {
  for (let at = error; at instanceof Error; at = at.cause) {
    if ('code' in at && typeof at.code === 'string' && /^[0-9A-Z]{5}$/.test(at.code)) return at.code;
  }
  return '';
}

function shorten(text: string): string {
  return text.length > SHOWN ? `${text.slice(0, SHOWN)}…` : text;
}
