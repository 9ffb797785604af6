import type { NativeConnection } from '@temporalio/worker';
import { messageOf } from '../core/errors.ts';
import { SEARCH_ATTRIBUTE } from '../workflows/interface.ts';
import type { Log } from './log.ts';

/** `temporal.api.enums.v1.IndexedValueType.INDEXED_VALUE_TYPE_KEYWORD` */
const KEYWORD = 2;
const DEADLINE_MS = 10_000;

/**
 * Makes sure that walkeep's search attributes exist, where this worker may do that.
 *
 * @returns whether they exist; workflows set none where they don't
 */
export async function registerSearchAttributes(
  connection: NativeConnection,
  namespace: string,
  log: Log,
): Promise<boolean> {
  const names = Object.values(SEARCH_ATTRIBUTE).map(({ name }) => name);
  const withDeadline = <Result>(call: () => Promise<Result>) =>
    connection.withDeadline(Date.now() + DEADLINE_MS, call);
  const missing = async () => {
    const { customAttributes } = await withDeadline(() =>
      connection.operatorService.listSearchAttributes({ namespace }),
    );
    return names.filter((name) => customAttributes?.[name] === undefined);
  };
  try {
    const absent = await missing();
    if (absent.length === 0) return true;
    await withDeadline(() =>
      connection.operatorService.addSearchAttributes({
        namespace,
        searchAttributes: Object.fromEntries(absent.map((name) => [name, KEYWORD])),
      }),
    );
    return (await missing()).length === 0;
  } catch (error) {
    log.info(
      { reason: messageOf(error) },
      `search attributes are not used: this worker may not register ${names.join(', ')} (type Keyword)`,
    );
    return false;
  }
}
