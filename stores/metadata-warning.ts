let isSilent = false;

/**
 * Google's library warns on standard error, in lines that are no log of ours, when the metadata server does not answer as it
 * should. The same is an error of ours, with advice; so these warnings are dropped, and no others.
 */
export function silenceMetadataLookup(): void {
  if (isSilent) return;
  isSilent = true;
  const emit = process.emitWarning.bind(process);
  process.emitWarning = (...args: unknown[]): void => {
    if (!args.includes('MetadataLookupWarning')) Reflect.apply(emit, process, args);
  };
}
