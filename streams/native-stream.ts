import { BackupError, messageOf } from '../core/errors.ts';

/** A stage that a native library brings. It works on a thread of its own. */
export type NativeStage = (input: ReadableStream<Uint8Array>) => ReadableStream<Uint8Array>;

/**
 * A library with a binary for this platform.
 *
 * @throws BackupError `config-invalid` when it can't be loaded: nothing is known about the object then
 */
export async function nativeLibrary<Library>(codec: string, load: () => Promise<Library>): Promise<Library> {
  try {
    return await load();
  } catch (error) {
    const [why = ''] = messageOf(error).split('\n');
    throw new BackupError('config-invalid', `the library for ${codec} can't be loaded on this host: ${why}`, {
      cause: error,
      hint: 'install the npm packages with Node 24: an older npm leaves out its binary (npm install, with node --version 24 or newer)',
    });
  }
}

/**
 * What `stage` makes of `source`, asked for only as fast as it is taken: a few pieces are on their way at most.
 *
 * @throws what the source throws, as it is; what the stage throws
 */
export function throughNative(
  stage: NativeStage,
  source: AsyncIterator<Uint8Array>,
): AsyncGenerator<Uint8Array, void, void> {
  return piped(stage, source, (error) => error);
}

/**
 * As `throughNative`, for a stage that decompresses; of an empty source it is not even asked.
 *
 * @param name of the object, and `codec`, for messages
 * @throws BackupError `object-damaged` when the stage fails or the source is empty; what the source throws, as it is
 */
export async function* decodedNatively(
  stage: NativeStage,
  source: AsyncIterator<Uint8Array>,
  { name, codec }: { readonly name: string; readonly codec: string },
): AsyncGenerator<Uint8Array, void, void> {
  const damaged = (why: string, cause?: unknown) =>
    new BackupError('object-damaged', `${name} does not decompress as ${codec}: ${why}`, { cause });
  let first = await source.next();
  while (first.done !== true && first.value.length === 0) first = await source.next();
  if (first.done === true) throw damaged('it is empty');
  let held: IteratorResult<Uint8Array> | undefined = first;
  const whole = {
    next: () => {
      const step = held;
      held = undefined;
      return step === undefined ? source.next() : Promise.resolve(step);
    },
  };
  yield* piped(stage, whole, (error) => damaged(messageOf(error), error));
}

async function* piped(
  stage: NativeStage,
  source: AsyncIterator<Uint8Array>,
  asThrown: (error: unknown) => unknown,
): AsyncGenerator<Uint8Array, void, void> {
  // the stage passes on the text of an error only
  let failure: { readonly error: unknown } | undefined;
  const input = new ReadableStream<Uint8Array>(
    {
      async pull(controller) {
        try {
          const step = await source.next();
          if (step.done === true) controller.close();
          else controller.enqueue(step.value);
        } catch (error) {
          failure = { error };
          controller.error(error);
        }
      },
    },
    { highWaterMark: 0 },
  );
  try {
    for await (const piece of stage(input)) if (piece.length > 0) yield piece;
  } catch (error) {
    throw failure === undefined ? asThrown(error) : failure.error;
  }
}
