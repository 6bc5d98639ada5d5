"""The words of MongoDB's pipelines that EarnORM knows: stages, expressions, operators of conditions.

A pipeline of anybody but ``system`` has no others, so that a word of a later server is refused
until somebody has looked at it. No word here writes, runs JavaScript or tells of the server.
https://www.mongodb.com/docs/manual/reference/operator/aggregation/
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

JAVASCRIPT: Final = frozenset({"$where", "$function", "$accumulator"})
"""The words that run JavaScript; those that begin with ``INTERNAL`` may do so, too."""

INTERNAL: Final = "$_"
"""The beginning of the server's own words, which no manual describes."""

STAGES: Final[Mapping[str, bool]] = {
    **dict.fromkeys(("$addFields", "$count", "$group", "$limit", "$match", "$project"), False),
    **dict.fromkeys(("$sample", "$set", "$skip", "$sort", "$sortByCount", "$unset"), False),
    **dict.fromkeys(("$unwind", "$bucketAuto"), False),
    **dict.fromkeys(("$bucket", "$densify", "$fill", "$redact", "$replaceRoot"), True),
    **dict.fromkeys(("$replaceWith", "$setWindowFields"), True),
}
"""The stages without a pipeline or a model inside, each with whether it may fail by itself."""

# Their value is the same for every document, or of every type, so they cannot fail.
_SAFE: Final = (
    *("$and", "$cmp", "$cond", "$eq", "$gt", "$gte", "$ifNull", "$isArray", "$isNumber", "$let"),
    *("$literal", "$lt", "$lte", "$ne", "$not", "$or", "$rand", "$sampleRate", "$type"),
    # As accumulators and as expressions:
    *("$addToSet", "$avg", "$count", "$max", "$min", "$push", "$stdDevPop"),
    *("$stdDevSamp", "$sum", "$top", "$bottom"),
    *("$denseRank", "$documentNumber", "$rank", "$shift"),
)
_FAILING: Final = (
    *("$abs", "$acos", "$acosh", "$add", "$allElementsTrue", "$anyElementTrue", "$arrayElemAt"),
    *("$arrayToObject", "$asin", "$asinh", "$atan", "$atan2", "$atanh", "$binarySize", "$bitAnd"),
    *("$bitNot", "$bitOr", "$bitXor", "$bottomN", "$bsonSize", "$ceil", "$concat"),
    *("$concatArrays", "$convert", "$cos", "$cosh", "$covariancePop", "$covarianceSamp"),
    *("$dateAdd", "$dateDiff", "$dateFromParts", "$dateFromString", "$dateSubtract"),
    *("$dateToParts", "$dateToString", "$dateTrunc", "$dayOfMonth", "$dayOfWeek", "$dayOfYear"),
    *("$degreesToRadians", "$derivative", "$divide", "$exp", "$expMovingAvg", "$filter", "$first"),
    *("$firstN", "$floor", "$getField", "$hour", "$in", "$indexOfArray", "$indexOfBytes"),
    *("$indexOfCP", "$integral", "$isoDayOfWeek", "$isoWeek", "$isoWeekYear", "$last", "$lastN"),
    *(
        "$linearFill",
        "$ln",
        "$locf",
        "$log",
        "$log10",
        "$ltrim",
        "$map",
        "$maxN",
        "$median",
        "$mergeObjects",
        "$meta",
    ),
    *("$millisecond", "$minMaxScaler", "$minN", "$minute", "$mod", "$month", "$multiply"),
    *("$objectToArray", "$percentile", "$pow", "$radiansToDegrees", "$range", "$reduce"),
    *("$regexFind", "$regexFindAll", "$regexMatch", "$replaceAll", "$replaceOne"),
    *("$reverseArray", "$round", "$rtrim", "$second", "$setDifference", "$setEquals", "$setField"),
    *("$setIntersection", "$setIsSubset", "$setUnion", "$sigmoid", "$sin", "$sinh", "$size"),
    *("$slice", "$sortArray", "$split", "$sqrt", "$strLenBytes", "$strLenCP", "$strcasecmp"),
    *("$substr", "$substrBytes", "$substrCP", "$subtract", "$switch", "$tan", "$tanh", "$toBool"),
    *("$toDate", "$toDecimal", "$toDouble", "$toInt", "$toLong", "$toLower", "$toObjectId"),
    *("$toString", "$toUUID", "$toUpper", "$topN", "$trim", "$trunc", "$tsIncrement"),
    *("$tsSecond", "$unsetField", "$week", "$year", "$zip"),
)
EXPRESSIONS: Final[Mapping[str, bool]] = {
    **dict.fromkeys(_SAFE, False),
    **dict.fromkeys(_FAILING, True),
}
"""The expressions, accumulators and window functions, each with whether it may fail.

One that may fail does so for some value of a document: a text that is no number, a zero to divide
by.
"""

VARIABLES: Final = frozenset(
    {"CLUSTER_TIME", "CURRENT", "DESCEND", "KEEP", "NOW", "PRUNE", "REMOVE", "ROOT"}
)
"""The system's variables; those that a pipeline defines do not begin with a capital letter."""

CONDITIONS: Final = frozenset(
    {
        *("$all", "$and", "$bitsAllClear", "$bitsAllSet", "$bitsAnyClear", "$bitsAnySet"),
        *("$comment", "$elemMatch", "$eq", "$exists", "$gt", "$gte", "$in", "$lt", "$lte"),
        *("$mod", "$ne", "$nin", "$nor", "$not", "$options", "$or", "$regex", "$size", "$type"),
        # About places, and what they compare with:
        *("$box", "$center", "$centerSphere", "$geoIntersects", "$geoWithin", "$geometry"),
        *("$polygon", "$uniqueDocs"),
        # A full-text search:
        *("$caseSensitive", "$diacriticSensitive", "$language", "$search", "$text"),
    }
)
"""The operators of a condition that cannot fail: the server looks at nothing but the value."""

UNSPECIFIC: Final = frozenset({"$expr", "$jsonSchema", "$sampleRate"})
"""The operators of a condition that are no conditions on a field that they name."""
